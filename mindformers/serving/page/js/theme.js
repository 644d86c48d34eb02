// Runs before the first paint, so that a page in the chosen theme does not flash in the other one.
try {
  const { theme } = JSON.parse(localStorage.getItem('mindformers/settings')) ?? {};
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch {
  // Without storage, or with a damaged entry, the page follows the system.
}

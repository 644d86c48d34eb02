"""The tool that the tiny model learns to call: ``mindformers chat MODEL_DIR --tools examples/tiny_chat/weather.py``."""

from __future__ import annotations

from typing import Any

# What a weather service would say; calls_tiny.json tells the same.
_WEATHER = {
    "Paris": ("sunny", 22),
    "Rome": ("rainy", 15),
    "London": ("cloudy", 12),
    "Tokyo": ("windy", 9),
    "北京": ("晴", 25),
    "上海": ("多云", 26),
    "广州": ("有雨", 31),
    "哈尔滨": ("下雪", -8),
}


def get_weather(city: str) -> dict[str, Any]:
    """Get the weather of a city."""
    if city not in _WEATHER:
        raise LookupError(f"no weather is known of {city}")
    sky, celsius = _WEATHER[city]
    return {"sky": sky, "celsius": celsius}

"""The special tokens of GLM-4, and their ids with the published vocabulary."""

NUM_RANKS = 151329  # of the published tokenizer.model; the special tokens' ids follow
# In id order. Source: tokenization_chatglm.py of glm-4-9b-chat.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
END_TOKENS = ("<|endoftext|>", "<|user|>", "<|observation|>")  # each ends an answer
END_IDS = tuple(NUM_RANKS + SPECIAL_TOKENS.index(token) for token in END_TOKENS)
PAD_ID = END_IDS[0]

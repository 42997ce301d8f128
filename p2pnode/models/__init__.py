"""GGUF models: the store of files, the shipped tiny models, and the script that trained them."""

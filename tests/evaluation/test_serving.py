"""An export behind transformers' OpenAI-compatible server answers as the model does by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from megatron_bielik.evaluation.answers import ChatModel
from megatron_bielik.posttrain.chat import ChatEncoder, choose_template, load_tokenizer, without_marks
from megatron_bielik.tokenizer.train import build_tokenizer
from tests.evaluation.conftest import save_llama

MESSAGES = [{"role": "user", "content": "Ile to 2 + 3?"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    texts = [f"Ile to {one} + {other}? To {one + other}.".encode() for one in range(20) for other in range(20)]
    entries = build_tokenizer(texts, 400, folder).entries
    tokenizer = load_tokenizer(folder)
    encoder = ChatEncoder(tokenizer, choose_template(tokenizer, None))
    tokenizer.chat_template = without_marks(encoder.template)
    tokenizer.save_pretrained(folder)
    save_llama(folder, entries, bos_token_id=1, eos_token_id=encoder.end_of_turn, pad_token_id=2)
    return folder


def ask(port: int, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://localhost:{port}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_answers_of_the_endpoint(model: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [
        str(Path(sys.executable).parent / "transformers"),
        "serve",
        str(model),
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as server,
    ):
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
                    assert time.monotonic() < deadline
                    time.sleep(0.5)
            answer = ask(port, {"model": str(model), "messages": MESSAGES, "max_tokens": 12, "temperature": 0})
        finally:
            server.terminate()
    assert answer["choices"][0]["message"]["content"].strip() == ChatModel(model).answer([MESSAGES], 12)[0].strip()

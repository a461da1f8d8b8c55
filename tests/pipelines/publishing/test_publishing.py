"""`kindling push`, against a small stand-in for the Hub on loopback."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from httpx2 import Request, Response
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HfHubHTTPError

from pipelines.publishing import hub
from pipelines.publishing.hub import push
from schemas.errors import EXIT_STOPPED, EXIT_USAGE, RunError, StoppedError

TOKEN = "hf_not_to_be_told"
SENT = {"README.md": "# The card", "config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "{}"}
KEPT = ["train.json", "train.lock", "stages/0-clm/model.safetensors", "work/0-clm/x", "tensorboard/0-clm/events"]


class Hub(ThreadingHTTPServer):
    """Answers what a push asks, and keeps what it was sent."""

    def __init__(self, private=True, refuses=False, busy=()):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.private, self.refuses, self.busy = private, refuses, list(busy)
        self.created, self.files, self.tokens = {}, {}, set()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self.shutdown()
        self.server_close()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path, body):
        if path == "/api/repos/create":
            self.created = json.loads(body)
            place = "datasets/me/tiny" if self.created.get("type") == "dataset" else "me/tiny"
            return {"url": f"{self.endpoint}/{place}", "name": "me/tiny", "id": "1"}
        if path.endswith("/preupload/main"):
            names = [each["path"] for each in json.loads(body)["files"]]
            return {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        if "/commit/" in path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.files = {each["path"]: base64.b64decode(each["content"]).decode() for each in files}
            url = f"{self.endpoint}/me/tiny/commit/{'0' * 40}"
            return {"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""}
        return {"id": "me/tiny", "modelId": "me/tiny", "private": self.private, "sha": "1" * 40, "siblings": []}


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.tokens.add(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        status = 403 if self.server.refuses else 200
        if "/commit/" in self.path and self.server.busy:
            status = self.server.busy.pop(0)
        answer = json.dumps(self.server.answer(self.path, body) if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def model(tmp_path):
    """A folder as `train` leaves it."""
    folder = tmp_path / "student"
    record = {"job": {"stages": [{}]}, "stages": [{}]}
    for name, text in {**dict.fromkeys(KEPT, "kept"), **SENT, "train.json": json.dumps(record)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def pushed(kindling, model, monkeypatch):
    def run(endpoint, *options, token=TOKEN):
        for name, value in {"HF_ENDPOINT": endpoint, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}.items():
            monkeypatch.setenv(name, value)
        done = kindling("push", model, "me/tiny", *options)
        assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
        return done

    return run


def test_the_model_and_its_card_go_to_a_private_repository(pushed):
    with Hub() as hub:
        done = pushed(hub.endpoint, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["private"], told["files"]) == (True, sorted(SENT))
        assert hub.created["visibility"] == "private"
        assert hub.files == SENT
        assert f"Bearer {TOKEN}" in hub.tokens


def test_a_public_repository_takes_nothing_that_was_not_meant_for_it(pushed):
    with Hub(private=False) as hub:
        refused = pushed(hub.endpoint)
        assert refused.returncode == EXIT_USAGE and "--public" in refused.stderr
        assert hub.files == {}
        assert pushed(hub.endpoint, "--public").returncode == 0
        assert hub.created["visibility"] == "public" and hub.files == SENT


def test_a_hub_that_refuses_or_is_not_there_is_one_clear_error(pushed):
    with Hub(refuses=True) as hub:
        refused = pushed(hub.endpoint)
        assert refused.returncode == EXIT_USAGE and "403" in refused.stderr and "whoami" in refused.stderr
    gone = pushed(hub.endpoint)
    assert gone.returncode == EXIT_STOPPED and "resume with: kindling push" in gone.stderr
    stranger = pushed(hub.endpoint, token="")
    assert stranger.returncode == EXIT_USAGE and "hf auth login" in stranger.stderr


def test_a_dataset_goes_to_a_private_repository_after_the_hub_was_busy(pushed, model, monkeypatch):
    for name in ("train.json", "model.safetensors"):
        (model / name).unlink()
    (model / "data").mkdir()
    for name in ("data/train-00000.jsonl", "data/test-00000.jsonl", "data/.hidden", "composition.json"):
        (model / name).write_text(name)
    with Hub(busy=[429, 412]) as server:
        done = pushed(server.endpoint, "--json")
        assert done.returncode == 0, done.stderr
        sent = ["README.md", "data/test-00000.jsonl", "data/train-00000.jsonl"]
        shown = json.loads(done.stdout)
        assert (shown["repo_type"], shown["private"], shown["files"]) == ("dataset", True, sent)
        assert (server.created["type"], server.created["visibility"]) == ("dataset", "private")
        assert server.files == {"README.md": SENT["README.md"], **{name: name for name in sent[1:]}}
        assert "another commit came first (412): trying again in 1 s" in done.stderr


@pytest.mark.parametrize(("status", "tries"), [(412, 5), (429, 1)])
def test_a_hub_that_stays_busy_stops_the_command_which_can_be_run_again(model, monkeypatch, status, tries):
    tried, waits = [], []

    class BusyHub(HfApi):
        def create_repo(self, repo, **_):
            return RepoUrl(f"https://huggingface.co/{repo}")

        def repo_info(self, repo, **_):
            return SimpleNamespace(private=True)

        def upload_folder(self, **arguments):
            tried.append(arguments["repo_type"])
            raise HfHubHTTPError("busy", response=Response(status, request=Request("POST", "https://huggingface.co")))

    monkeypatch.setattr(hub, "HfApi", BusyHub)
    monkeypatch.setattr(hub, "get_token", lambda: TOKEN)
    monkeypatch.setattr(hub.time, "sleep", waits.append)
    with pytest.raises(StoppedError, match="nothing is lost here"):
        push(str(model), "me/tiny")
    assert (tried, waits) == (["model"] * tries, [1, 2, 4, 8][: tries - 1])


def test_what_is_no_trained_model_is_not_sent(model, tmp_path):
    (model / "train.json").write_text(json.dumps({"job": {"stages": [{}, {}]}, "stages": [{}]}))
    with pytest.raises(RunError, match="not finished"):
        push(str(model), "me/tiny")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(RunError, match=r"kindling export RUN --to FOLDER"):
        push(str(tmp_path / "run"), "me/tiny")
    with pytest.raises(RunError, match=r"no train\.json"):
        push(str(tmp_path), "me/tiny")

"""`resflow index` as it is run from a shell."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from resflow.sources import open_index
from tests.conftest import Command


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train-0000.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            buffer = io.BytesIO()
            Image.new("RGB", (20 + number, 10)).save(buffer, "JPEG")
            info = tarfile.TarInfo(f"{number}.jpg")
            info.size = len(buffer.getvalue())
            archive.addfile(info, io.BytesIO(buffer.getvalue()))
    return path


def test_index_is_written_and_told(shard: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = f"{shard.parent}/train-*.tar"
    assert command("index", pattern) == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 images in 1 shard (")
    assert err == ""
    assert len(open_index(pattern)) == 3
    assert command("index", pattern, "--workers", "1", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["samples"] == 3
    assert said["shards"] == 1
    assert said["fingerprint"] == open_index(pattern).fingerprint
    assert Path(said["index"]).exists()


def test_errors_are_one_block_and_exit_codes_tell(
    shard: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    shard.write_bytes(shard.read_bytes()[:2000])
    assert command("index", str(shard)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"resflow: ShardError\n  {shard} at byte ")
    assert "truncated" in err
    assert "Traceback" not in err
    assert command("index") == 2
    assert command("index", str(shard), "--workers", "0") == 2
    assert command("nonsense") == 2


def test_progress_bar_on_a_terminal(shard: Path) -> None:
    import os
    import pty

    main_end, terminal = pty.openpty()
    program = "import sys; sys.argv[1:] = ['index', sys.argv[1]]; from resflow.cli.main import main; main()"
    process = subprocess.run(
        [sys.executable, "-c", program, str(shard)], stdout=subprocess.PIPE, stderr=terminal, check=False
    )
    os.close(terminal)
    shown = os.read(main_end, 100_000)
    os.close(main_end)
    assert process.returncode == 0
    assert b"scanning" in shown
    assert process.stdout.startswith(b"3 images")


def test_help_is_quick_and_loads_little() -> None:
    program = (
        "import sys, resource; sys.argv = ['resflow', '--help']\n"
        "from resflow.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'nvidia', 'kornia', 'matplotlib', 'pyarrow', 'numpy', 'webdataset'} & set(sys.modules)\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print('LOADED', sorted(heavy), 'SECONDS', usage.ru_utime + usage.ru_stime)\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "index" in out
    assert "LOADED [] SECONDS" in out
    assert float(out.rsplit(maxsplit=1)[-1]) < 0.5


def test_samples_without_a_readable_image_are_left_out_and_listed_on_request(
    shard: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(shard, "a") as archive:
        for name, content in (("bad.jpg", b"\xff\xd8\xff\xe0 no more"), ("none.txt", b"a caption"), ("3.png", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert command("index", str(shard)) == 1
    assert "bad" in capsys.readouterr().err
    for workers in ("1", "2"):
        assert command("index", str(shard), "--leave-out", "--json", "--workers", workers) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["samples"] == len(open_index(shard)) == 3
        told = [reason.rpartition("/")[2] for reason in said["left_out"]]
        assert told == ["bad)", "none)", "3)"]
    assert command("index", str(shard), "--leave-out") == 0
    out = capsys.readouterr().out
    assert "3 samples left out" in out
    assert "no image among its members ['txt']" in out

"""The transcoder's own process: it starts when needed, survives nothing, and takes nobody with it."""

import json
import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest
from tests import builders, peers

from mercure.core.errors import TransientError
from mercure.dicom.part10 import read_file_meta
from mercure.dicom.reencode import TranscodeError
from mercure.dicom.transcode_worker import answer
from mercure.dicom.transcoder import Transcoder


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def compressed(tmp_path: Path) -> str:
    return str(builders.small_series(tmp_path / "rle", 1, transfer_syntax=builders.RLE).files[0])


def test_the_result_is_a_file_without_a_name(compressed: str, tmp_path: Path) -> None:
    with Transcoder() as transcoder:
        result = transcoder.transcode(compressed, [builders.IMPLICIT_LITTLE])
        with result.file as file:
            data = file.read()

    assert result.transfer_syntax_uid == builders.IMPLICIT_LITTLE
    assert len(data) == result.size > 0
    assert os.listdir(tmp_path / "temporary") == []


def test_one_process_serves_many_instances_and_ends_with_the_block(compressed: str) -> None:
    with Transcoder() as transcoder:
        for _ in range(3):
            transcoder.transcode(compressed, [builders.EXPLICIT_LITTLE]).file.close()
        process = transcoder._process
        assert process is not None

    assert process.returncode is not None


def test_what_cannot_be_converted_is_a_transcode_error_and_the_next_one_is_converted(
    compressed: str, tmp_path: Path
) -> None:
    with Transcoder() as transcoder:
        with pytest.raises(TranscodeError, match="neither"):
            transcoder.transcode(compressed, [])
        transcoder.transcode(compressed, [builders.EXPLICIT_LITTLE]).file.close()

    assert os.listdir(tmp_path / "temporary") == []


def test_a_file_that_is_gone_is_transient(tmp_path: Path) -> None:
    with Transcoder() as transcoder, pytest.raises(TransientError, match="No such file"):
        transcoder.transcode(str(tmp_path / "missing.dcm"), [builders.EXPLICIT_LITTLE])


def test_a_decoder_that_crashes_costs_its_instance_and_no_other(compressed: str) -> None:
    with Transcoder() as transcoder:
        transcoder.transcode(compressed, [builders.EXPLICIT_LITTLE]).file.close()
        assert transcoder._process is not None
        os.kill(transcoder._process.pid, signal.SIGSEGV)
        transcoder._process.wait()
        with pytest.raises(TranscodeError, match="crashed"):
            transcoder.transcode(compressed, [builders.EXPLICIT_LITTLE])

        transcoder.transcode(compressed, [builders.EXPLICIT_LITTLE]).file.close()


def test_a_decoder_that_hangs_is_ended(compressed: str) -> None:
    with Transcoder(limit_seconds=0.2) as transcoder:
        process = transcoder._running()
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(TranscodeError, match="too long"):
            transcoder.transcode(compressed, [builders.EXPLICIT_LITTLE])

        assert process.returncode is not None


def test_close_from_another_thread_ends_a_conversion(compressed: str) -> None:
    failures: list[Exception] = []

    def run() -> None:
        with Transcoder() as mine:
            transcoders.append(mine)
            os.kill(mine._running().pid, signal.SIGSTOP)
            ready.set()
            try:
                mine.transcode(compressed, [builders.EXPLICIT_LITTLE])
            except TransientError as error:
                failures.append(error)

    transcoders: list[Transcoder] = []
    ready = threading.Event()
    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(peers.DEADLINE_SECONDS)
    transcoders[0].close()
    thread.join(20)

    assert not thread.is_alive()
    assert "stopped" in str(failures[0])
    with pytest.raises(TransientError, match="stopped"):
        transcoders[0].transcode(compressed, [builders.EXPLICIT_LITTLE])


def test_the_process_answers_each_question_with_one_object(compressed: str, tmp_path: Path) -> None:
    output = tmp_path / "out"

    def asked(path: str, *accepted: str) -> dict[str, str]:
        return answer(json.dumps({"path": path, "accepted": accepted, "output": str(output)}))

    assert asked(compressed, builders.EXPLICIT_LITTLE) == {"kind": "done", "transfer_syntax": builders.EXPLICIT_LITTLE}
    assert output.stat().st_size > read_file_meta(compressed).data_set_size
    assert asked(compressed)["kind"] == "permanent"
    assert asked(str(tmp_path))["kind"] == "transient"

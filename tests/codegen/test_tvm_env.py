"""The version check: exact messages, with the installed versions faked."""

import os
from importlib.metadata import PackageNotFoundError

import pytest

from penstock.codegen.tvm import env as tvm_env
from penstock.errors import ToolError

FIX = (
    "\nfix: python -m pip install 'apache-tvm==0.27.0.post1' 'apache-tvm-ffi>=0.1.14.post0,<0.1.15'"
)
NEED = (
    "the TVM backends need apache-tvm 0.27.0.post1 with apache-tvm-ffi from 0.1.14.post0 "
    "to below 0.1.15 (other pairs crash the process); installed: "
)


def fake(monkeypatch, **versions):
    def version(name):
        found = versions[name.replace("-", "_")]
        if found is None:
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr(tvm_env, "import_module", lambda name: name)


@pytest.mark.parametrize(
    ("tvm", "ffi", "listed"),
    [
        (None, None, "apache-tvm not at all, apache-tvm-ffi not at all"),
        ("0.27.0.post1", None, "apache-tvm 0.27.0.post1, apache-tvm-ffi not at all"),
        ("0.27.0.post1", "0.1.15", "apache-tvm 0.27.0.post1, apache-tvm-ffi 0.1.15"),
        ("0.27.0.post1", "0.1.15.post2", "apache-tvm 0.27.0.post1, apache-tvm-ffi 0.1.15.post2"),
        ("0.27.0.post1", "0.1.14", "apache-tvm 0.27.0.post1, apache-tvm-ffi 0.1.14"),
        ("0.27.0.post1", "0.1.13.post3", "apache-tvm 0.27.0.post1, apache-tvm-ffi 0.1.13.post3"),
        ("0.26.0", "0.1.14.post1", "apache-tvm 0.26.0, apache-tvm-ffi 0.1.14.post1"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_before_the_import(monkeypatch, tvm, ffi, listed):
    fake(monkeypatch, apache_tvm=tvm, apache_tvm_ffi=ffi)
    with pytest.raises(ToolError) as error:
        tvm_env.require_tvm()
    assert str(error.value) == NEED + listed + FIX


@pytest.mark.parametrize("ffi", ["0.1.14.post0", "0.1.14.post1", "0.1.14.post12"])
def test_a_pair_that_fits_is_imported(monkeypatch, ffi):
    fake(monkeypatch, apache_tvm="0.27.0.post1", apache_tvm_ffi=ffi)
    assert tvm_env.require_tvm() == "tvm"


def test_every_core_may_be_used_unless_the_user_says_otherwise(monkeypatch):
    fake(monkeypatch, apache_tvm="0.27.0.post1", apache_tvm_ffi="0.1.14.post1")
    monkeypatch.delenv("TVM_NUM_THREADS", raising=False)
    tvm_env.require_tvm()
    assert os.environ["TVM_NUM_THREADS"] == str(tvm_env.cores())
    monkeypatch.setenv("TVM_NUM_THREADS", "1")
    tvm_env.require_tvm()
    assert os.environ["TVM_NUM_THREADS"] == "1"


def test_the_installed_pair_fits():
    assert tvm_env.require_tvm().__name__ == "tvm"

"""List modules and data files that PyInstaller cannot find, such as modules imported by name."""

from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_data_files, collect_submodules, copy_metadata


def _wanted(name: str) -> bool:
    # Commands import typer and rich. An app that draws a map imports aiovec.plot itself.
    return not name.startswith(("aiovec._cli", "aiovec.plot")) and not name.endswith("_command")


hiddenimports = [*collect_submodules("aiovec", _wanted), "aiovec_sqlite"]
# An app that needs one of these imports it itself.
excludedimports = ["pandas", "polars", "pyarrow"]
datas = copy_metadata("aiovec")  # its version, and its entry points
if find_spec("wordllama") is not None:
    hiddenimports += ["wordllama"]
    datas += collect_data_files("wordllama")

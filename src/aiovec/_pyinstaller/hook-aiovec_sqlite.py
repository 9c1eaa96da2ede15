"""List the modules and native libraries of the SQLite backend that PyInstaller cannot find."""

from importlib.util import find_spec

from PyInstaller.utils.hooks import collect_dynamic_libs, collect_submodules

hiddenimports = [*collect_submodules("aiovec_sqlite"), "sqlite_vec"]
excludedimports = ["pyarrow"]
if find_spec("sqlcipher3") is not None:
    hiddenimports += ["sqlcipher3.dbapi2"]
binaries = [
    library
    for package in ("aiovec_sqlite", "sqlite_vec")
    for library in collect_dynamic_libs(package, search_patterns=["*.so", "*.dylib", "*.dll"])
]

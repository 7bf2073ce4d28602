"""A tiny Python package with entry points for providers, as an installer leaves it or as a wheel."""

import zipfile
from pathlib import Path


def lay_out(site: Path, name: str, modules: dict[str, str], points: dict[str, str], version: str = "1.0") -> None:
    """Write the files of an installed package into the folder `site`, which is to be on sys.path."""
    for path, content in _files(name, modules, points, version).items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)


def build_wheel(folder: Path, name: str, modules: dict[str, str], points: dict[str, str], version: str = "1.0") -> Path:
    """Write a wheel of the package into `folder`, and return its path."""
    wheel = folder / f"{_normal(name)}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in _files(name, modules, points, version).items():
            archive.writestr(path, content)
    return wheel


def _files(name: str, modules: dict[str, str], points: dict[str, str], version: str) -> dict[str, str]:
    info = f"{_normal(name)}-{version}.dist-info"
    files = modules | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "\n".join(
            ["[stockpulse.providers]", *(f"{point} = {place}" for point, place in points.items()), ""]
        ),
    }
    return files | {f"{info}/RECORD": "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))}


def _normal(name: str) -> str:
    return name.replace("-", "_")

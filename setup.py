"""Packaging of halvit_mm; the pinned, tested environment is in ``requirements/``."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "halvit_mm/__init__.py").read_text())[1]

#: What the package carries in ``halvit_mm/.mim``, where OpenMMLab's programs look for it.
CARRIED = ("configs", "tools", "model-index.yml")
#: Tools that make no sense without the rest of the repository.
IN_CLONES_ONLY = ("install.py", "make_model_zoo.py", "make_results.py", "check_matrix.py")


class BuildWithConfigsAndTools(build_py):
    """Copies what is carried into wheels, and links to it where the installation is editable."""

    def run(self):
        super().run()
        folder = HERE if self.editable_mode else HERE / self.build_lib
        mim = folder / "halvit_mm" / ".mim"
        shutil.rmtree(mim, ignore_errors=True)  # or wheels would keep what a former build left
        mim.mkdir(parents=True)
        for name in CARRIED:
            if self.editable_mode:
                self.link(name, mim / name)
            elif (HERE / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__", *IN_CLONES_ONLY)
                shutil.copytree(HERE / name, mim / name, ignore=ignored)
            else:
                shutil.copy(HERE / name, mim)

    def link(self, name, link):
        try:
            link.symlink_to(os.path.join("..", "..", name), target_is_directory="." not in name)
        except OSError as error:  # on Windows not everybody may make links
            self.warn(f"no link to {name} ({error}): programs of OpenMMLab will not find it")


setup(
    name="halvit_mm",
    version=VERSION,
    description="Vision backbones with half of the weights, for OpenMMLab detectors",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords=["computer vision", "object detection", "vision transformer", "weight sharing"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["halvit_mm", "halvit_mm.*"]),
    cmdclass={"build_py": BuildWithConfigsAndTools},
    install_requires=["torch>=2.6", "torchvision>=0.21", "numpy", "pillow", "tqdm"],
    # mmengine, mmcv, mmdet and mmpretrain come from either of two families of distributions.
    extras_require={
        "onedl": [
            "onedl-mmengine>=0.10.12,<0.11",
            "onedl-mmcv>=2.3.6,<2.4",
            "onedl-mmdetection>=3.5.1,<3.6",
            "onedl-mmpretrain>=1.3.6,<1.4",
            "pycocotools>=2.0.8",
            "scikit-learn>=1.4",
        ],
        "openmmlab": [
            "mmengine>=0.10.4",
            "mmcv>=2.0.0,<2.2",  # mmdet refuses newer ones
            "mmdet>=3.2.0",
            "mmpretrain>=1.2.0",
            "pycocotools>=2.0.8",
            "scikit-learn>=1.4",
        ],
        # A device that only runs exported models needs onnxruntime, numpy, opencv and pillow alone.
        "deploy": ["onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.20", "safetensors>=0.4"],
        "serve": ["gradio>=6"],  # tools/serve.py
        "explain": ["grad-cam>=1.5"],  # Grad-CAM of tools/visualize.py
        "benchmark": ["timm"],  # a peer to compare with
        "docs": ["mkdocs-material", "mkdocstrings[python]"],
        "dev": [
            *("pytest<9.2", "pytest-timeout", "pytest-xdist", "hypothesis", "playwright", "build"),
            *("nbclient", "ipykernel", "ruff", "pre-commit"),
        ],
    },
)

"""Packaging of halvit_mm; the pinned, tested environment is in ``requirements/``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "halvit_mm/__init__.py").read_text())[1]

setup(
    name="halvit_mm",
    version=VERSION,
    description="Vision backbones with half of the weights, for OpenMMLab detectors",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["halvit_mm", "halvit_mm.*"]),
    install_requires=["torch>=2.4", "torchvision>=0.19", "numpy", "pillow", "tqdm"],
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
            "mmcv>=2.0.0",
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
        "dev": ["pytest", "pytest-timeout", "pytest-xdist", "playwright", "ruff", "pre-commit"],
    },
)

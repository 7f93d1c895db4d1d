"""Dense checkpoints turned into half-weight models.

:func:`halve` does the whole: :mod:`~halvit_mm.halving.sources` reads the dense checkpoint as the
half-weight backbone's dense twin; :mod:`~halvit_mm.halving.pairing` cuts both into units, by family
(:mod:`~halvit_mm.halving.vits`, :mod:`~halvit_mm.halving.mini_deit`,
:mod:`~halvit_mm.halving.mini_swin`, :mod:`~halvit_mm.halving.resnets`);
:mod:`~halvit_mm.halving.averaging` starts each with averages, after what
:mod:`~halvit_mm.halving.symmetries` leaves free is resolved; and
:mod:`~halvit_mm.halving.reconstruction` trains it to give what the dense unit gives on the images
of :mod:`~halvit_mm.halving.calibration`. :mod:`~halvit_mm.halving.selection` makes the control, a
narrow dense model from a wide one, and :mod:`~halvit_mm.halving.comparison` compares them all.
"""

from .pairing import pair
from .reconstruction import Reconstruction
from .report import Report, UnitReport
from .run import METHODS, halve
from .sources import DenseModel, read_dense
from .units import Pairing, Unit

__all__ = [
    "METHODS",
    "DenseModel",
    "Pairing",
    "Reconstruction",
    "Report",
    "Unit",
    "UnitReport",
    "halve",
    "pair",
    "read_dense",
]

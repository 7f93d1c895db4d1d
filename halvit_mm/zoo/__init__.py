"""The model zoo: small trained models, what they reach, and OpenMMLab's index of all models.

:mod:`.entries` names the models that are trained, :mod:`.making` makes them fit to hand out and
notes what they reach, and :mod:`.metafiles` writes and checks ``model-index.yml``. Nothing here is
imported when ``halvit_mm`` is.
"""

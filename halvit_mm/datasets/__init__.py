"""Data sets that a command makes, and the check that a data set is sound before training starts.

mmdet's own ``CocoDataset`` reads them, so there is nothing to register here.
"""

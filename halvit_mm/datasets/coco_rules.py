"""What happens to each fault that a file in COCO's format can have.

A fault is either refused, or a rule deals with it: what mmdet's ``CocoDataset``, its loading of
masks and its COCO metric do anyway. Category ids with gaps or in any order are no fault.
"""

from dataclasses import dataclass
from typing import Literal

#: Coordinates and sides of images in pixels; an RLE or a polygon of more would cost gigabytes, and
#: pycocotools crashes on what it cannot allocate.
LARGEST_COORDINATE = 1e6
LARGEST_IMAGE = 2**29  # pixels; the longest run that RLE has room for
LONGEST_OUTLINE = 2e6  # pixels along a polygon; pycocotools takes 80 bytes for each
LARGEST_ID = 2**53  # COCO's metric keeps ids in 64-bit floats
SLACK = 1.0  # pixels that a box or polygon may lie beyond the image without a word


@dataclass(frozen=True)
class Rule:
    """What happens to one kind of fault.

    Attributes:
        fault: What is wrong, of several of them.
        treatment: What is done about it, or how to put it right where it is refused.
        refused: ``"always"``, ``"never"``, or ``"in evaluation"``: in validation and test sets,
            where COCO's metric reads the file as well and cannot deal with it.
    """

    fault: str
    treatment: str
    refused: Literal["always", "in evaluation", "never"] = "always"

    def refuses(self, *, evaluated: bool) -> bool:
        """Whether a set with this fault is refused."""
        return self.refused == "always" or (self.refused == "in evaluation" and evaluated)


#: By the kind of fault, in the order of reports.
RULES: dict[str, Rule] = {
    # The file
    "repeated key": Rule("objects with a key twice", "remove one of the two"),
    "not JSON": Rule("NaN or Infinity, which JSON has not", "read as Python does", "never"),
    "not an object": Rule("entries that are no objects", "remove or correct the entry"),
    "missing key": Rule("entries without a key they need", "add it"),
    "wrong type": Rule("values of another type", "write it as COCO's format wants it"),
    "not finite": Rule("numbers that are NaN or infinite", "correct the number"),
    "absurd number": Rule("numbers too large to be meant", "correct the number"),
    "not text": Rule("names that are empty or no text", "rename it, in the file too"),
    # Images
    "repeated image id": Rule("images with the id of another one", "give each an id of its own"),
    "image size": Rule("images of no size", "write the image's width and height"),
    "repeated file name": Rule(
        "files that several images name", "each counts as an image of its own", "never"
    ),
    "similar file names": Rule(
        "file names that differ in capitals alone",
        "read as they are written; on some disks they are one file",
        "never",
    ),
    "outside the folder": Rule(
        "file names that lead out of the folder of images", "read from where they lead", "never"
    ),
    "small image": Rule("images smaller than filter_cfg.min_size", "left out of training", "never"),
    "missing image": Rule(
        "image files that are missing",
        "put it there, correct data_prefix, or take it out of the file",
    ),
    "broken image": Rule(
        "image files that cannot be read", "fetch it anew, or take it out of the file"
    ),
    "other size": Rule(
        "image files of another size than the file says",
        "use the images that were annotated, or annotate these",
    ),
    # Categories
    "repeated category id": Rule(
        "categories with the id of another one", "give each an id of its own"
    ),
    "repeated category name": Rule(
        "categories with the name of another one", "keep one and move the annotations to it"
    ),
    # Annotations
    "repeated annotation id": Rule(
        "annotations with the id of another one", "give each an id of its own"
    ),
    "id 0": Rule(
        "annotations with the id 0",
        "loaded; COCO's metric never counts it as found, so number from 1 for evaluation",
        "never",
    ),
    "unknown image": Rule(
        "annotations of an image_id that is not among the images", "remove it or add the image"
    ),
    "unknown category": Rule(
        "annotations of a category_id that is not among the categories", "left out", "never"
    ),
    "negative size": Rule(
        "boxes of negative width or height", "write the box as [left, top, width, height]"
    ),
    "no size": Rule(
        "boxes less than a pixel wide or high",
        "left out of training; COCO's metric misses it",
        "never",
    ),
    "negative area": Rule("negative areas", "write the number of pixels"),
    "no area": Rule(
        "areas of 0", "left out of training; COCO's metric looks for it all the same", "never"
    ),
    "large area": Rule(
        "areas larger than the image",
        "loaded; COCO's metric counts it among the large objects",
        "never",
    ),
    "box outside": Rule(
        "boxes outside the image", "left out of training; COCO's metric misses it", "never"
    ),
    "box beyond": Rule(
        "boxes that reach beyond the image",
        "loaded as they are, then cut off by the pipeline's Resize; COCO's metric cuts nothing off",
        "never",
    ),
    "crowd flag": Rule("iscrowd that is neither 0 nor 1", "write 1 for a crowd, 0 else"),
    "no crowd flag": Rule(
        "annotations without iscrowd, which COCO's metric needs",
        "in training it counts as 0; write iscrowd for evaluation",
        "in evaluation",
    ),
    "ignore flag": Rule(
        "annotations with ignore set",
        "left out of training; COCO's metric looks at iscrowd alone",
        "never",
    ),
    # Masks, where the pipeline loads them
    "no mask": Rule("annotations without a segmentation", "add it, or train a detector of boxes"),
    "short polygon": Rule(
        "polygons of less than three points or half a point",
        "left out of training; an object without any other is ignored there: neither object nor "
        "background; remove them for evaluation",
        "in evaluation",
    ),
    "polygon outside": Rule(
        "segmentations whose polygons all lie outside the image", "correct or remove it"
    ),
    "polygon beyond": Rule(
        "polygons that reach beyond the image", "cut off at the image's edge", "never"
    ),
    "crossing polygon": Rule(
        "polygons that cross or touch themselves",
        "what the outline goes round an even number of times is outside (even-odd rule)",
        "never",
    ),
    "RLE size": Rule("RLE of another size than the image", "make the mask of this image's size"),
    "RLE counts": Rule(
        "RLE counts that are no runs of pixels or do not fill the image", "encode the mask anew"
    ),
    "empty RLE": Rule("RLE without a pixel", "encode the mask anew, or remove the annotation"),
}

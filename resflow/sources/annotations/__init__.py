"""Folders of images with annotations beside them: COCO, panoptic, VOC, YOLO and masks, read without shards."""

"""Any pretrained vision model, answering from only the visible part of an image."""

"""Decodes the part of a JPEG that a placement shows, straight into the batch: compiled, without the interpreter lock.

A general decoder makes an image of a file; most of that image is then thrown away by a crop or averaged away by a
resize. Here the crop and the size of the output are known first. Of a baseline JPEG only the needed rows are read,
only the blocks under the window are transformed, at the smallest size that suffices; brightness and colour are resized
as they are stored (colour at half the size, mostly), and become red, green and blue once, at the output's size.

What it does not take (progressive, arithmetic, CMYK, 12 bit, damaged files) it leaves to libjpeg-turbo, and says so.

Source: ITU-T T.81 (the format); its IJG implementation for the filter that enlarges colour.
"""

from resflow.decode.jpeg.window import decode_window as decode_window

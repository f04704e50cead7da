"""The live view: a local web page with the camera, its labels, and how the pipeline is doing.

A feed (:mod:`.feed`) puts pictures on a board (:mod:`.board`), of which only the newest counts; the server
(:mod:`.server`) shows the board to as many browsers as ask, each at its own pace. Nothing below this folder knows of
HTTP, and nothing in it of ROS.
"""

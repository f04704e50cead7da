"""What the drives of these tests are called, and when their frames are."""

START = 1_700_000_000_000_000_000
STEP = 100_000_000
IMAGE, LABEL = "/camera/image_raw", "/camera/label"

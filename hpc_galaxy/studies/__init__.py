"""The test put to the test: the same survey with known defects, or with none, taken through the pipeline once more."""

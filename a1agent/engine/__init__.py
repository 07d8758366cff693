"""The data path, one file per verb, in the order data takes."""

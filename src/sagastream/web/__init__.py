"""The page of `sagastream serve`, for operators; it needs `pip install 'sagastream[serve]'`."""

"""Batch scoring of Parquet files, and Spark for it and for the search."""

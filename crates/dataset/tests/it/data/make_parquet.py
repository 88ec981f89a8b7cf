"""Writes the parquet files beside it with pyarrow (made with 26.0.1): python make_parquet.py"""
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

here = Path(__file__).parent
texts = [f"Row {i}: llamas walk, 羊驼走路。" + "\n" * (i % 3) for i in range(1, 151)]
rows = pa.table({"id": pa.array(range(150)), "text": pa.array(texts), "tags": pa.array([["a", "b"]] * 150)})
pq.write_table(rows, here / "rows.parquet", row_group_size=70, compression="zstd")
nulls = pa.table({"text": pa.array(["one", None, "three"]), "raw": pa.array([b"one", b"\xff\xfe", b"three"])})
pq.write_table(nulls, here / "nulls.parquet", compression="snappy", use_dictionary=False)

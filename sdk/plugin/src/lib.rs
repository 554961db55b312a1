//! Guest SDK: write Tidegate filters and transforms in Rust.

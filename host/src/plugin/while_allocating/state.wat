;; What the modules between a component and WASI share.
(module
  ;; How many calls of `cabi_realloc` are under way.
  (global (export "allocating") (mut i32) (i32.const 0))
  ;; What was answered last: nanoseconds of the monotonic clock, seconds of the other one, and a random number.
  (global (export "ns") (mut i64) (i64.const 1000000000))
  (global (export "seconds") (mut i64) (i64.const 1577836800))
  (global (export "random") (mut i64) (i64.const 0x7469646567617465)))

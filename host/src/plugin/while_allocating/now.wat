;; wasi:clocks/monotonic-clock now: a microsecond after the last answer while allocating.
(module
  (import "behind" "f" (func $wasi (result i64)))
  (import "state" "allocating" (global $allocating (mut i32)))
  (import "state" "ns" (global $ns (mut i64)))
  (func (export "f") (result i64)
    (if (global.get $allocating)
      (then (global.set $ns (i64.add (global.get $ns) (i64.const 1000))))
      (else (global.set $ns (call $wasi))))
    (global.get $ns)))

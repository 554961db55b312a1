;; wasi:clocks/wall-clock now: the second of the last answer while allocating.
(module
  (import "behind" "f" (func $wasi (param i32)))
  (import "behind" "memory" (memory 0))
  (import "state" "allocating" (global $allocating (mut i32)))
  (import "state" "seconds" (global $seconds (mut i64)))
  (func (export "f") (param $result i32)
    (if (global.get $allocating)
      (then
        (i64.store (local.get $result) (global.get $seconds))
        (i32.store offset=8 (local.get $result) (i32.const 0)))
      (else
        (call $wasi (local.get $result))
        (global.set $seconds (i64.load (local.get $result)))))))

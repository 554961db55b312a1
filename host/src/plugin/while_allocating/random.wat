;; wasi:random get-random-u64: while allocating the next number of a sequence that begins with the last answer.
(module
  (import "behind" "f" (func $wasi (result i64)))
  (import "state" "allocating" (global $allocating (mut i32)))
  (import "state" "random" (global $random (mut i64)))
  (func (export "f") (result i64)
    (if (i32.eqz (global.get $allocating))
      (then (global.set $random (call $wasi)) (return (global.get $random))))
    (global.set $random (i64.add (i64.mul (global.get $random) (i64.const 6364136223846793005))
      (i64.const 1442695040888963407)))
    (i64.xor (global.get $random) (i64.shr_u (global.get $random) (i64.const 32)))))

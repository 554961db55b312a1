;; wasi:random/insecure-seed: while allocating two numbers of a sequence.
(module
  (import "behind" "f" (func $wasi (param i32)))
  (import "behind" "memory" (memory 0))
  (import "state" "allocating" (global $allocating (mut i32)))
  (import "state" "random" (global $random (mut i64)))
  (func $next (result i64)
    (global.set $random (i64.add (i64.mul (global.get $random) (i64.const 6364136223846793005))
      (i64.const 1442695040888963407)))
    (i64.xor (global.get $random) (i64.shr_u (global.get $random) (i64.const 32))))
  (func (export "f") (param $result i32)
    (if (global.get $allocating)
      (then
        (i64.store (local.get $result) (call $next))
        (i64.store offset=8 (local.get $result) (call $next)))
      (else (call $wasi (local.get $result))))))

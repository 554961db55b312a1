;; wasi:random get-random-bytes: while allocating bytes of a sequence, in memory of the guest's.
(module
  (import "behind" "f" (func $wasi (param i64 i32)))
  (import "behind" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
  (import "behind" "memory" (memory 0))
  (import "state" "allocating" (global $allocating (mut i32)))
  (import "state" "random" (global $random (mut i64)))
  (func (export "f") (param $length i64) (param $result i32) (local $at i32) (local $end i32)
    (if (i32.eqz (global.get $allocating))
      (then (call $wasi (local.get $length) (local.get $result)) (return)))
    ;; As many as the broker gives at once.
    (if (i64.gt_u (local.get $length) (i64.const 65536)) (then unreachable))
    (local.set $at
      (call $realloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.wrap_i64 (local.get $length))))
    (local.set $end (i32.add (local.get $at) (i32.wrap_i64 (local.get $length))))
    (i32.store (local.get $result) (local.get $at))
    (i32.store offset=4 (local.get $result) (i32.wrap_i64 (local.get $length)))
    (loop $more
      (if (i32.lt_u (local.get $at) (local.get $end))
        (then
          (global.set $random (i64.add (i64.mul (global.get $random) (i64.const 6364136223846793005))
            (i64.const 1442695040888963407)))
          (i32.store8 (local.get $at) (i32.wrap_i64 (i64.shr_u (global.get $random) (i64.const 56))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $more))))))

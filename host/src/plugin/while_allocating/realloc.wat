;; Says that `cabi_realloc` is under way as long as it is.
(module
  (import "behind" "f" (func $realloc (param i32 i32 i32 i32) (result i32)))
  (import "state" "allocating" (global $allocating (mut i32)))
  (func (export "f") (param i32 i32 i32 i32) (result i32)
    (global.set $allocating (i32.add (global.get $allocating) (i32.const 1)))
    (call $realloc (local.get 0) (local.get 1) (local.get 2) (local.get 3))
    (global.set $allocating (i32.sub (global.get $allocating) (i32.const 1)))))

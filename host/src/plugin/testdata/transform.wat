;; A transform whose one rule does what its configuration says. The first letter is what, the decimal number after
;; it is the sequence of the event it concerns; all other events are kept:
;;   k   keep        o   replace by an event with the same payload
;;   t   trap        l   loop      j   reject      y   retry later     s   answer one outcome too few
;;   e   refuse the configuration, with itself as the message
;;   g   keep, and keep 4 MiB for each event: trap when there is no more
(component
  (import "tidegate:plugin/types@0.1.0" (instance $types
    (type $header' (record (field "name" string) (field "value" string)))
    (export "header" (type $header (eq $header')))
    (type $event' (record
      (field "topic" string) (field "sequence" u64) (field "time" u64) (field "key" (option (list u8)))
      (field "content-type" (option string)) (field "headers" (list $header)) (field "payload" (list u8))))
    (export "event" (type $event (eq $event')))
    (type $header-set' (variant (case "none") (case "all") (case "named" (list string))))
    (export "header-set" (type $header-set (eq $header-set')))
    (type $wants' (record (field "headers" $header-set) (field "payload" bool)))
    (export "wants" (type $wants (eq $wants')))
  ))
  (alias export $types "header" (type $header))
  (alias export $types "event" (type $event))
  (alias export $types "wants" (type $wants))

  (core module $main
    (memory (export "memory") 8)
    (data (i32.const 1024) "because")
    (global $next (mut i32) (i32.const 65536))
    (global $letter (mut i32) (i32.const 0))
    (global $number (mut i64) (i64.const -1))

    (func $alloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (local.get $at))

    (func (export "done") (param i32) (global.set $next (i32.const 65536)))

    (func (export "configure") (param $text i32) (param $length i32) (result i32)
      (local $at i32) (local $answer i32)
      (local.set $answer (call $alloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 24)))
      (global.set $letter (i32.load8_u (local.get $text)))
      (if (i32.eq (global.get $letter) (i32.const 101)) (then ;; e
        (i32.store8 (local.get $answer) (i32.const 1))
        (i32.store offset=4 (local.get $answer) (local.get $text))
        (i32.store offset=8 (local.get $answer) (local.get $length))
        (return (local.get $answer))))
      (if (i32.gt_u (local.get $length) (i32.const 1)) (then
        (global.set $number (i64.const 0))
        (local.set $at (i32.const 1))
        (loop $digits
          (global.set $number (i64.add (i64.mul (global.get $number) (i64.const 10)) (i64.extend_i32_u
            (i32.sub (i32.load8_u (i32.add (local.get $text) (local.get $at))) (i32.const 48)))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br_if $digits (i32.lt_u (local.get $at) (local.get $length))))))
      (i32.store8 (local.get $answer) (i32.const 0))
      (i32.store offset=4 (local.get $answer) (i32.const 0))
      (i32.store8 offset=8 (local.get $answer) (i32.const 1))
      (i32.store8 offset=20 (local.get $answer) (i32.const 1))
      (local.get $answer))

    (func (export "release") (param i32))

    (func (export "apply") (param $rule i32) (param $events i32) (param $count i32) (result i32)
      (local $event i32) (local $in i32) (local $out i32) (local $outs i32) (local $answer i32)
      (local.set $answer (call $alloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 8)))
      (local.set $outs (call $alloc (i32.const 0) (i32.const 0) (i32.const 8)
        (i32.mul (local.get $count) (i32.const 48))))
      (memory.fill (local.get $outs) (i32.const 0) (i32.mul (local.get $count) (i32.const 48)))
      (i32.store (local.get $answer) (local.get $outs))
      (i32.store offset=4 (local.get $answer) (local.get $count))
      (block $end (loop $each
        (br_if $end (i32.ge_u (local.get $event) (local.get $count)))
        (local.set $in (i32.add (local.get $events) (i32.mul (local.get $event) (i32.const 64))))
        (local.set $out (i32.add (local.get $outs) (i32.mul (local.get $event) (i32.const 48))))
        (local.set $event (i32.add (local.get $event) (i32.const 1)))
        (br_if $each (i32.and (i64.ne (global.get $number) (i64.const -1))
          (i64.ne (global.get $number) (i64.load offset=8 (local.get $in)))))
        (if (i32.eq (global.get $letter) (i32.const 116)) (then unreachable)) ;; t
        (if (i32.eq (global.get $letter) (i32.const 103)) (then ;; g
          (if (i32.eq (i32.const -1) (memory.grow (i32.const 64))) (then unreachable))))
        (if (i32.eq (global.get $letter) (i32.const 108)) (then (loop $ever (br $ever)))) ;; l
        (if (i32.eq (global.get $letter) (i32.const 115)) ;; s
          (then (i32.store offset=4 (local.get $answer) (i32.sub (local.get $count) (i32.const 1)))))
        (if (i32.eq (global.get $letter) (i32.const 111)) (then ;; o
          (i32.store8 offset=4 (local.get $out) (i32.const 2))
          (i32.store offset=40 (local.get $out) (i32.load offset=56 (local.get $in)))
          (i32.store offset=44 (local.get $out) (i32.load offset=60 (local.get $in)))))
        (if (i32.or (i32.eq (global.get $letter) (i32.const 106)) (i32.eq (global.get $letter) (i32.const 121)))
          (then ;; j, y
            (i32.store8 (local.get $out) (i32.const 1))
            (i32.store8 offset=4 (local.get $out) (i32.eq (global.get $letter) (i32.const 121)))
            (i32.store offset=8 (local.get $out) (i32.const 1024))
            (i32.store offset=12 (local.get $out) (i32.const 7))))
        (br $each)))
      (local.get $answer))
  )
  (core instance $main (instantiate $main))

  (type $output' (record (field "key" (option (list u8))) (field "content-type" (option string))
    (field "headers" (list $header)) (field "payload" (list u8))))
  (export $output "output" (type $output'))
  (type $emitted' (record (field "output" (option string)) (field "event" $output)))
  (export $emitted "emitted" (type $emitted'))
  (type $outcome' (variant (case "keep") (case "drop") (case "replace" $output) (case "emit" (list $emitted))))
  (export $outcome "outcome" (type $outcome'))
  (type $failure' (variant (case "reject" string) (case "retry" string)))
  (export $failure "failure" (type $failure'))
  (func $configure (param "config" string) (result (result (tuple u32 $wants) (error string)))
    (canon lift (core func $main "configure")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc")) (post-return (core func $main "done"))))
  (func $release (param "rule" u32) (canon lift (core func $main "release")))
  (func $apply (param "rule" u32) (param "events" (list $event)) (result (list (result $outcome (error $failure))))
    (canon lift (core func $main "apply")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc")) (post-return (core func $main "done"))))
  (instance $transforming
    (export "configure" (func $configure))
    (export "release" (func $release))
    (export "apply" (func $apply)))
  (export "tidegate:plugin/transforming@0.1.0" (instance $transforming))
)

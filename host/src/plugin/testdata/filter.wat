;; A filter whose rules do what their configuration says, good or bad. The first letter is what, the decimal
;; number after it is the sequence of the event it concerns:
;;   a   want every event              n   want none               q5  want event 5 and no other
;;   t   trap                          t5  trap on event 5         l   loop (l5: on event 5)
;;   m   take memory until refused     u   answer an unknown event v   answer an unknown rule
;;   d   answer every pair twice       b   answer more than the broker takes
;;   r   want an event if a random number is odd                   w   want an event if the clock goes on from an hour
;;   h   call an interface that plugins do not get
;;   p5  from now on trap on event 5, whatever the rule
;;   e   refuse the configuration, with itself as the message      c   trap on the configuration
;;   i   give a rule number a second time
;;   g   want every event, and keep 4 MiB for each: trap when there is no more
;;   x   want every event, and keep 16 MiB for the rule: trap on the configuration when there is no more
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
  (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
  (import "wasi:clocks/monotonic-clock@0.2.3" (instance $clock (export "now" (func (result u64)))))
  (import "wasi:http/outgoing-handler@0.2.1" (instance $http (export "handle" (func))))
  ;; here: another import
  (alias export $types "event" (type $event))
  (alias export $types "wants" (type $wants))

  (core module $main
    (import "host" "random" (func $random (result i64)))
    (import "host" "now" (func $now (result i64)))
    (import "host" "http" (func $http))
    (memory (export "memory") 8)
    ;; Where a call's allocations begin, and where the next one goes. Below are the rules, 16 bytes each.
    (global $base i32 (i32.const 262144))
    (global $next (mut i32) (i32.const 262144))
    (global $rules i32 (i32.const 65536))
    (global $count (mut i32) (i32.const 0))
    (global $poison (mut i64) (i64.const -1))

    (func $alloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1)
            (i32.div_u (i32.sub (global.get $next) (i32.mul (memory.size) (i32.const 65536))) (i32.const 65536)))))
          (then unreachable))))
      (local.get $at))

    (func (export "done") (param i32) (global.set $next (global.get $base)))

    (func (export "configure") (param $text i32) (param $length i32) (result i32)
      (local $rule i32) (local $letter i32) (local $number i64) (local $at i32) (local $answer i32)
      (local.set $answer (call $alloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 24)))
      (local.set $letter (i32.load8_u (local.get $text)))
      (local.set $number (i64.const -1))
      (if (i32.gt_u (local.get $length) (i32.const 1)) (then
        (local.set $number (i64.const 0))
        (local.set $at (i32.const 1))
        (loop $digits
          (local.set $number (i64.add (i64.mul (local.get $number) (i64.const 10)) (i64.extend_i32_u
            (i32.sub (i32.load8_u (i32.add (local.get $text) (local.get $at))) (i32.const 48)))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br_if $digits (i32.lt_u (local.get $at) (local.get $length))))))
      (if (i32.eq (local.get $letter) (i32.const 99)) (then unreachable)) ;; c
      (if (i32.eq (local.get $letter) (i32.const 120)) (then ;; x
        (if (i32.eq (i32.const -1) (memory.grow (i32.const 256))) (then unreachable))))
      (if (i32.eq (local.get $letter) (i32.const 101)) (then ;; e
        (i32.store8 (local.get $answer) (i32.const 1))
        (i32.store offset=4 (local.get $answer) (local.get $text))
        (i32.store offset=8 (local.get $answer) (local.get $length))
        (return (local.get $answer))))
      (if (i32.eq (local.get $letter) (i32.const 112)) (then (global.set $poison (local.get $number)))) ;; p
      (local.set $rule (global.get $count))
      (if (i32.ne (local.get $letter) (i32.const 105)) (then ;; not i
        (global.set $count (i32.add (local.get $rule) (i32.const 1))))
        (else (local.set $rule (i32.const 0))))
      (local.set $at (i32.add (global.get $rules) (i32.mul (local.get $rule) (i32.const 16))))
      (i64.store (local.get $at) (local.get $number))
      (i32.store offset=8 (local.get $at) (local.get $letter))
      (i32.store8 (local.get $answer) (i32.const 0))
      (i32.store offset=4 (local.get $answer) (local.get $rule))
      (i32.store8 offset=8 (local.get $answer) (i32.const 0))
      (i32.store8 offset=20 (local.get $answer) (i32.const 0))
      (local.get $answer))

    (func (export "release") (param i32))

    (global $out (mut i32) (i32.const 0))
    (global $found (mut i32) (i32.const 0))
    (func $match (param $event i32) (param $rule i32)
      (local $at i32)
      (local.set $at (i32.add (global.get $out) (i32.mul (global.get $found) (i32.const 8))))
      (i32.store (local.get $at) (local.get $event))
      (i32.store offset=4 (local.get $at) (local.get $rule))
      (global.set $found (i32.add (global.get $found) (i32.const 1))))

    (func $pair (param $event i32) (param $sequence i64) (param $rule i32)
      (local $at i32) (local $letter i32) (local $number i64) (local $concerned i32)
      (local.set $at (i32.add (global.get $rules) (i32.mul (local.get $rule) (i32.const 16))))
      (local.set $number (i64.load (local.get $at)))
      (local.set $letter (i32.load offset=8 (local.get $at)))
      (if (i64.eq (local.get $sequence) (global.get $poison)) (then unreachable))
      (local.set $concerned (i32.or (i64.eq (local.get $number) (i64.const -1))
        (i64.eq (local.get $number) (local.get $sequence))))
      (if (i32.eqz (local.get $concerned)) (then
        ;; Rules that misbehave on one event want the others.
        (if (i32.ne (local.get $letter) (i32.const 113)) ;; q
          (then (call $match (local.get $event) (local.get $rule))))
        return))
      (if (i32.eq (local.get $letter) (i32.const 116)) (then unreachable)) ;; t
      (if (i32.eq (local.get $letter) (i32.const 108)) (then (loop $ever (br $ever)))) ;; l
      (if (i32.eq (local.get $letter) (i32.const 109)) (then ;; m
        (loop $more (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16)))))
        unreachable))
      (if (i32.eq (local.get $letter) (i32.const 103)) (then ;; g
        (if (i32.eq (i32.const -1) (memory.grow (i32.const 64))) (then unreachable))))
      (if (i32.eq (local.get $letter) (i32.const 104)) (then (call $http))) ;; h
      (if (i32.eq (local.get $letter) (i32.const 117)) ;; u
        (then (call $match (i32.const 1000000) (local.get $rule)) return))
      (if (i32.eq (local.get $letter) (i32.const 118)) ;; v
        (then (call $match (local.get $event) (i32.const 1000000)) return))
      (if (i32.eq (local.get $letter) (i32.const 100)) ;; d
        (then (call $match (local.get $event) (local.get $rule)) (call $match (local.get $event) (local.get $rule)) return))
      (if (i32.eq (local.get $letter) (i32.const 98)) ;; b
        (then (global.set $found (i32.const 4000000)) (drop (memory.grow (i32.const 600))) return))
      (if (i32.eq (local.get $letter) (i32.const 114)) (then ;; r
        (if (i32.eqz (i32.wrap_i64 (i64.and (call $random) (i64.const 1)))) (then return))))
      (if (i32.eq (local.get $letter) (i32.const 119)) (then ;; w
        (if (i64.le_u (call $now) (i64.const 3600000000000)) (then return))
        (if (i64.ge_s (i64.sub (call $now) (call $now)) (i64.const 0)) (then return))))
      (if (i32.eq (local.get $letter) (i32.const 110)) (then return)) ;; n
      (call $match (local.get $event) (local.get $rule)))

    (func (export "evaluate") (param $events i32) (param $event-count i32) (param $rules i32) (param $rule-count i32)
      (result i32)
      (local $event i32) (local $rule i32) (local $answer i32)
      (global.set $found (i32.const 0))
      (local.set $answer (call $alloc (i32.const 0) (i32.const 0) (i32.const 8) (i32.const 8)))
      (global.set $out (call $alloc (i32.const 0) (i32.const 0) (i32.const 8)
        (i32.mul (i32.const 16) (i32.mul (local.get $event-count) (local.get $rule-count)))))
      (block $end-events (loop $each-event
        (br_if $end-events (i32.ge_u (local.get $event) (local.get $event-count)))
        (local.set $rule (i32.const 0))
        (block $end-rules (loop $each-rule
          (br_if $end-rules (i32.ge_u (local.get $rule) (local.get $rule-count)))
          (call $pair (local.get $event)
            (i64.load offset=8 (i32.add (local.get $events) (i32.mul (local.get $event) (i32.const 64))))
            (i32.load (i32.add (local.get $rules) (i32.mul (local.get $rule) (i32.const 4)))))
          (local.set $rule (i32.add (local.get $rule) (i32.const 1)))
          (br $each-rule)))
        (local.set $event (i32.add (local.get $event) (i32.const 1)))
        (br $each-event)))
      (i32.store (local.get $answer) (global.get $out))
      (i32.store offset=4 (local.get $answer) (global.get $found))
      (local.get $answer))
  )

  (core func $random' (canon lower (func $random "get-random-u64")))
  (core func $now' (canon lower (func $clock "now")))
  (core func $http' (canon lower (func $http "handle")))
  (core instance $host
    (export "random" (func $random')) (export "now" (func $now')) (export "http" (func $http')))
  (core instance $main (instantiate $main (with "host" (instance $host))))

  (type $match' (record (field "event" u32) (field "rule" u32)))
  (export $match "match" (type $match'))
  (func $configure (param "config" string) (result (result (tuple u32 $wants) (error string)))
    (canon lift (core func $main "configure")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc")) (post-return (core func $main "done"))))
  (func $release (param "rule" u32) (canon lift (core func $main "release")))
  (func $evaluate (param "events" (list $event)) (param "rules" (list u32)) (result (list $match))
    (canon lift (core func $main "evaluate")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc")) (post-return (core func $main "done"))))
  (instance $filtering
    (export "configure" (func $configure))
    (export "release" (func $release))
    (export "evaluate" (func $evaluate)))
  (export "tidegate:plugin/filtering@0.1.0" (instance $filtering))
)

-- What is stored under a key. ?1: the key.
select o.key, o.fingerprint, o.stream, o.version, o.position, o.events, o.refusal
from es_outcomes o
where o.key = ?1

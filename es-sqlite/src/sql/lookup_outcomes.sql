-- What is stored under some keys. ?1: JSON array of keys.
select o.key, o.fingerprint, o.stream, o.version, o.position, o.events, o.refusal
from json_each(?1) asked
join es_outcomes o on o.key = asked.value

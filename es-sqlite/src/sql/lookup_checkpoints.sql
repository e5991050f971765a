-- Where some processors are. ?1: JSON array of names.
select c.name, c.position
from json_each(?1) asked
join es_checkpoints c on c.name = asked.value

-- Old witnesses: those from before a time, at most so many.
delete from es_attempts
where id in (select id from es_attempts where applied_at < ? order by applied_at limit ?);

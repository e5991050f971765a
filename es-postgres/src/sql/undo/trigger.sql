-- The trigger of one table and one kind of statement, once a statement. A template of `format`: 1 and 2 select the keys of
-- rows before and after it, 3 and 4 these rows.
declare
    mode constant text := coalesce(current_setting('es_undo.mode', true), '');
begin
    if mode <> '' then
        perform es_undo.note(tg_relid, %1$s, %2$s, %3$s, %4$s);
    elsif current_setting('transaction_isolation') <> 'read committed'
        or exists (select from es_undo.locks l where l.tab = tg_relid)
    then
        perform es_undo.meet(tg_relid, %1$s || %2$s, %2$s);
    end if;
    return null;
end

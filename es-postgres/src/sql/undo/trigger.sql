-- The trigger of one table and one kind of statement, once a statement. A template of `format`: 1 reads keys, 2 keys and rows.
declare
    mode constant text := coalesce(current_setting('es_undo.mode', true), '');
    keys text[] := '{}';
    new_keys text[] := '{}';
    befores text[] := '{}';
    afters text[] := '{}';
    had text[] := '{}';
    made text[] := '{}';
begin
    if mode <> '' then
        %2$s
        perform es_undo.note(tg_relid, keys, new_keys, befores, afters, had, made);
    elsif current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
        or exists (select from es_undo.locks l where l.tab = tg_relid)
    then
        %1$s
        perform es_undo.meet(tg_relid, keys, new_keys, had, made);
    end if;
    return null;
end

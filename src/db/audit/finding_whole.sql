select f.id::text as id, f.id as subject,
    h.changes <> f.version or h.first is distinct from 1 or h.last <> f.version
        or f.status is distinct from (
            select j.status from finding_history j where j.finding_id = f.id and j.seq = f.version) as broken
from findings f
left join lateral (
    select count(*) as changes, min(seq) as first, max(seq) as last
    from finding_history h where h.finding_id = f.id) h on true

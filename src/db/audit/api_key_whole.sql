select k.id::text as id, k.id as subject,
    octet_length(k.hash) <> 32
        or k.role not in ('secret', 'publishable')
        or coalesce(k.revoked_at < k.created_at, false)
        or exists (select 1 from api_keys j where j.id <> k.id and j.hash = k.hash) as broken
from api_keys k

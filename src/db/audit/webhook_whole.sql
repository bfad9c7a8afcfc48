select w.id::text as id, w.id as subject,
    (w.processed_at is null) <> (w.outcome is null)
        or w.dedupe_key <> encode(sha256(w.payload), 'hex')
        or exists (select 1 from webhook_inbox v where v.id <> w.id
                   and v.provider = w.provider and v.dedupe_key = w.dedupe_key) as broken
from webhook_inbox w
where {in w.id}

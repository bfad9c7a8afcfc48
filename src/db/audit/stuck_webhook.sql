select w.id::text as id, w.id as subject, w.received_at < now() - {age} as broken, w.received_at as since
from webhook_inbox w
where w.processed_at is null

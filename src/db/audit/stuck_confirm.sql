select p.id::text as id, p.order_id as subject,
    p.confirm_started_at < now() - {age} as broken, p.confirm_started_at as since
from payments p
where p.status = 'confirming'

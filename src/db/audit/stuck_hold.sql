select o.id::text as id, o.id as subject,
    o.hold_expires_at < now() - {age} as broken, o.hold_expires_at as since
from orders o
where o.status = 'pending'

select c.id::text as id, c.order_id as subject, c.created_at < now() - {age} as broken, c.created_at as since
from cancellations c
where c.status = 'requested'

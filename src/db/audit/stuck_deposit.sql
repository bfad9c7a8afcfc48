select p.id::text as id, p.order_id as subject,
    coalesce(p.deposit_due_at < now() - {age}, false) as broken, p.deposit_due_at as since
from payments p
where p.status = 'awaiting_deposit'

select p.id::text as id, p.order_id as subject,
    p.provider_payment_key = ''
        or (p.approved_amount is null) <> (p.approved_at is null)
        or p.status in ('approved', 'partially_canceled') and p.approved_amount is distinct from p.amount
        or p.status = 'reversing' and p.approved_amount is null
        or p.status in ('ready', 'confirming', 'awaiting_deposit', 'declined', 'expired')
            and p.approved_amount is not null
        or p.status = 'canceled' and p.canceled_at is null
        -- A deposit into an account that was closed is returned: its payment was canceled before.
        or p.status not in ('canceled', 'reversing') and p.canceled_at is not null
        or p.status = 'declined' and p.decline_class is null as broken
from payments p
where {in p.order_id}
